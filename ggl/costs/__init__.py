"""What defenses cost: federated training under them, accuracy, bytes, epsilon."""
