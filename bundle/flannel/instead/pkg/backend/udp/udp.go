// Package udp takes the place of Flannel's udp backend, the one part that needs a C compiler.
// The backend is for debugging and for kernels without VXLAN; flanneld answers that it does not know it.
package udp
