// Command drv-thru-relay is the relay through which drv-thru's builders and
// clients find each other. It sees endpoint IDs, addresses and byte counts, and
// passes ciphertext.
package main

import (
	"context"
	"os"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }
