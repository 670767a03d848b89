# Measured against predicted, time at the left and memory at the right; both axes logarithmic, the diagonal is a plan
# that was right. time.dat, space.dat: predicted, measured, least, most, colour, graph, estimated.
name(i) = value(sprintf('SERIES_%d', i))
shade(i) = color(value(sprintf('COLOR_%d', i)))
# With more than one shape a chunk size shows the one of its eager points.
SHAPED = value(sprintf('COLOR_%d', SERIES)) >= 7
kind(k) = SHAPED ? POINT + shape(value(sprintf('COLOR_%d', k)), 0) : BOX
do for [k = 1 : SERIES] { eval entry(kind(k), 'chunk '.name(k), shade(k)) }
if (EAGER && !SHAPED) { eval entry(POINT + 7, 'eager', FAINT) }
if (GRAPH) { eval entry(POINT + 9, SHAPED ? 'graph (triangles, pentagon)' : 'graph', FAINT) }
if (ESTIMATED) { eval entry(POINT + 6, 'estimated (open)', FAINT) }
HEIGHT = 300
eval open_page
set multiplot
set logscale xy

worst(factor) = factor < 1.005 ? 'no case differs by 0.5 % or more' : \
    sprintf('the farthest case differs by a factor of %.2f', factor)

set lmargin at screen 0.125
set rmargin at screen 0.49
LOW = LEAST_S / 1.5; HIGH = MOST_S * 1.5
set xrange [LOW : HIGH]
set yrange [LOW : HIGH]
DECADES = log10(HIGH / LOW)
STEPS = DECADES < 1.3 ? '1 2 5' : DECADES < 2.5 ? '1 3' : '1'
set xtics (); set ytics ()
do for [i = -9 : 6] {
    do for [k in STEPS] {
        v = k * 10.0 ** i
        set ytics add (seconds(v) v)
        if (v < HIGH / 1.1) { set xtics add (seconds(v) v) }
    }
}
set xlabel 'prefill, predicted'
set ylabel 'measured'
set label 110 worst(WORST_S) at graph 0.03, 0.95 left boxed font SMALL textcolor rgb FAINT
plot x with lines lc rgb FAINT dt 2, \
     'time.dat' using ($4 > $3 ? $1 : NaN):2:3:4 with yerrorbars pt -1 ps 0 lc rgb FAINT, \
     '' using ($7 == 0 ? $1 : NaN):2:(shape($5, $6)):(color($5)) with points pt variable ps 0.9 lc rgb variable, \
     '' using ($7 == 1 ? $1 : NaN):2:(shape($5, $6) - 1):(color($5)) \
         with points pt variable ps 1 lw 1.5 lc rgb variable

eval page_is_labelled
set lmargin at screen 0.60
set rmargin at screen 0.98
LOW = LEAST_BYTES / 1.5; HIGH = MOST_BYTES * 1.5
set xrange [LOW : HIGH]
set yrange [LOW : HIGH]
set xtics (); set ytics ()
SPAN = ceil(log(HIGH / LOW) / log(2) / 6)
do for [i = 0 : 50 : SPAN] {
    v = 2.0 ** i
    set ytics add (bytes(v) v)
    if (v < HIGH / 1.1) { set xtics add (bytes(v) v) }
}
set xlabel 'memory of the device, predicted'
set label 110 worst(WORST_BYTES) at graph 0.03, 0.95 left boxed font SMALL textcolor rgb FAINT
plot x with lines lc rgb FAINT dt 2, \
     'space.dat' using 1:2:(shape($5, $6)):(color($5)) with points pt variable ps 0.9 lc rgb variable
unset multiplot
