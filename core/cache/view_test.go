package cache

import (
	"testing"
	"testing/synctest"
)

func TestImportInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var paths []fakePath
		for k := range 300 {
			paths = append(paths, newPath(k, int64(1000+k*37)))
		}
		paths = append(paths, newPath(300, 40<<20))
		m := newFetcher(paths)
		v := newView(t, paths, m, ViewConfig{})
		v.RunAhead(nil)
		for _, p := range paths {
			readAll(t, v, p, 64<<10)
		}
		if n := len(m.log()); n != 1 {
			t.Errorf("%d requests", n)
		}
		v.Close()
	})
}
