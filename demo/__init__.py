"""A small model of coloured shapes: how it is drawn, trained and judged."""
