"""Export: a trained run as other libraries have networks: a state dict of open_clip or timm, ONNX, or torch.export.

`merge` folds deltas into the weights around them, `linear` reads a head as one matrix, `upstream` fills the library's own
network, `graph` traces the whole classifier, `folder` writes what others load.
"""
