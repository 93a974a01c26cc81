//! quorate-bundle
