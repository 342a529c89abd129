"""What people have marked in a store's samples: segmentation masks, and how files of them read."""
