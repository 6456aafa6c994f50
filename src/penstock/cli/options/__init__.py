"""The options of `penstock bench`, a module for each panel of its help: types, not values."""
