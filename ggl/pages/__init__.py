"""What every page is made with: templates, the style of figures, the trade-off."""
