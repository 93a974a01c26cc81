//! quorate-exec
