"""What each number format means: integers, scales, groups and bytes, identical to what NNCF writes."""
