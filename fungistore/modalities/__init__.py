"""What a sample can be: from its bytes to what an encoder takes."""
