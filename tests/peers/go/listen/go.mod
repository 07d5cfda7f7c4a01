module protocg.test/listen

// From 1.24 on Go asks for Multipath TCP whenever it listens (GODEBUG multipathtcp=2).
go 1.24
