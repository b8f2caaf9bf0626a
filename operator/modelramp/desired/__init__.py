"""What the world should hold, from spec, status and the frozen revisions: pure, one builder per kind of child."""
