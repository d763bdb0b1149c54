"""The interfaces that plugins implement; each is small and says what an author must write."""
