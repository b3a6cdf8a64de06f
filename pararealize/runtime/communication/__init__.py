"""Communication: how ranks reach each other, and states and adjoints as messages."""
