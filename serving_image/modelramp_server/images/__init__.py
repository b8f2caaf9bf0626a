"""Images in, classes and masks out: decoding, preprocessing and postprocessing as the model's metadata says."""

KEY = "modelramp.image"  # in the `metadata` of an MLmodel file
