"""What methods are built from: towers, experts, memory, routers; none of it is a method."""
