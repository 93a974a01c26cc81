// Package errors stands in for the error type of a cloud SDK that is not built.
package errors

// TencentCloudSDKError is never returned by this stand-in.
type TencentCloudSDKError struct{ Message string }

// Error returns the message.
func (e *TencentCloudSDKError) Error() string { return e.Message }
