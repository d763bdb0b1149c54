"""The interfaces that plugins implement, one to a file; each is small and says what an author must write."""
