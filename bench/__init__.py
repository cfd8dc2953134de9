"""What things cost, as tables: `make bench`. Figures, not pass or fail; compare ratios within one run."""
