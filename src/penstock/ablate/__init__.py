"""What every technique gives and costs, measured on the user's own machine."""
