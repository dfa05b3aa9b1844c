"""Real transformer models, tiny or the demo's, through our engines: outputs equal the plain model's, whatever shares a batch."""
