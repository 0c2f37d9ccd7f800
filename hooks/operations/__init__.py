"""What a plan is made of: each operation describes and carries out one step."""
