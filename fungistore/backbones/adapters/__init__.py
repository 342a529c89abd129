"""Small additions to a frozen vision transformer that are trained on images, one file a method."""
