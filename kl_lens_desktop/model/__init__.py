"""Opening a model folder, and the inventory of its weight matrices."""
