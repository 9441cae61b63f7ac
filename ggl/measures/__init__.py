"""What reconstructions are worth: metrics, leak scores, intervals and tests."""
