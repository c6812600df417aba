"""Whether a method or a dataset keeps its promises."""
