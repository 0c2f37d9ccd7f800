"""What must hold before a stage changes anything: each guard proves one thing, or refuses."""
