"""Planning for a known set of jobs: what is to be planned, plans and how they are played, lists and searches."""
