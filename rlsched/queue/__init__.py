"""A queue of jobs that keep arriving: the scheduler that stays up, and the clients that talk to it."""
