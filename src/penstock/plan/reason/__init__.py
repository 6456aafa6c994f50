"""What more samples of a question buy in right answers, and cost in time and money."""
