"""Tables of what several stages have come to, as papers have them."""
