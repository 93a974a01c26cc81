//! quorate-kube
