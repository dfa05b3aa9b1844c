"""Causal language models: texts summarized, translated or labelled by prompt.

`generating` (over `text`) and `labels` are the engines, `vllm` another one over `text`. `prompting` makes a document into
a prompt, `settings` and `lengths` say how an answer is generated and how long it may get, `continuous` and `batches`
generate, `scoring` weighs labels, `trial` tries a model when it is loaded.
"""
