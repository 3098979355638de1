"""Training: how examples become better weights, and how one knows that they did."""
