"""What tests that run a real server share: processes, disks, histories, raw bytes."""
