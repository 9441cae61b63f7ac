"""What a prior can show: samples, and inversions of given images beside controls."""
