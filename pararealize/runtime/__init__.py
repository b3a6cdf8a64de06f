"""What a running schedule needs; it never imports a pass of the compiler."""
