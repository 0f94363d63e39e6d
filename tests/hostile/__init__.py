"""What an enemy, or a broken client, may send: nobody else notices, and nothing is stored."""
