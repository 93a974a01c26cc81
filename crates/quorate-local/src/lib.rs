//! quorate-local
