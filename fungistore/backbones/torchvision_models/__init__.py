"""torchvision's classifiers as encoders: the features that enter their last layer."""
