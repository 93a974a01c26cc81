module quorate.local/bundle/pause

go 1.25.0
