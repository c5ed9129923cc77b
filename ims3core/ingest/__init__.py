"""From someone's images to ``data/real``: sources of images, class lists, splits; the stage ``prepare`` alone."""
