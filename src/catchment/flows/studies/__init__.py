"""What only studies have: subscriptions, which follow what is published."""
