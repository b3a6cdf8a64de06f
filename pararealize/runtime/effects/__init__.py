"""Effects: what an evaluation moves besides its result: statistics, random numbers, gradients."""
