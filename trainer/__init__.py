"""Everything beside the user's training loop: stall detection, capture, client, adoption."""
