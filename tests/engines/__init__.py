"""Real transformer models, tiny or the demo's, through our engines: outputs equal those of the plain model."""
