"""Students: the networks trained from scratch on a distilled set, and how they are trained and scored."""
