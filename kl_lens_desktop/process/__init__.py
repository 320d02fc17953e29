"""Events, cancellation, and child processes that carry both: what every stage and front end shares."""
