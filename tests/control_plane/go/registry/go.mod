// The registry through which a test node gets its images.
module psr.dev/registry

go 1.25.0

require github.com/google/go-containerregistry v0.20.6
