"""What a run needs and how long it takes, before any machine is rented."""
