"""What a running schedule needs: combinations of states, quiet statistics, masks, reports."""
