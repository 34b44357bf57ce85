"""Requirements on counts: recall floors and gaps between groups, by jobs and by what practitioners would do."""
